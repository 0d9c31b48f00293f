# Starts PostgreSQL on an empty or a used volume; owner, password and database are always those of the Secret.
# Asks of its image only PostgreSQL's own programs. PGDATA, PGHOST and PGPORT mean what they mean to these.
for programs in /usr/lib/postgresql/*/bin; do PATH="$programs:$PATH"; done

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Written elsewhere and moved, so that an interrupted start begins from scratch.
  rm -rf "$PGDATA.new"
  initdb -D "$PGDATA.new" -U postgres -E UTF8 --locale=C.UTF-8 --data-checksums \
    --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >>"$PGDATA.new/pg_hba.conf"
  mv "$PGDATA.new" "$PGDATA"
fi

pg_ctl -D "$PGDATA" -w -t 120 -o "-c listen_addresses='' -k '$PGHOST'" start
psql -U postgres -d postgres -v ON_ERROR_STOP=1 -q <<'SQL'
\getenv owner POSTGRES_OWNER
\getenv password POSTGRES_PASSWORD
\getenv database POSTGRES_DATABASE
SELECT format('CREATE ROLE %I LOGIN', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'owner') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'owner', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'database', :'owner')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database') \gexec
SQL
pg_ctl -D "$PGDATA" -w -m fast stop

exec postgres -D "$PGDATA" -k "$PGHOST" -c listen_addresses='*' -c max_connections=100 "$@"
