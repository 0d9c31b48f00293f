// A real OpenID Connect issuer for the tests: npm oidc-provider. Its one argument is a file of JSON:
//   modules   folder of node_modules          issuer         its name
//   host, port where it listens
//   jwks      private keys it signs with      clients        as oidc-provider takes them
//   accounts  login name -> claims, re-read lifetime       seconds of an id token
//   algorithm of id tokens                    workloads      public keys of the issuer of workloads (token exchange)
import { readFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const settings = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const from = (path) => import(pathToFileURL(`${settings.modules}/${path}`));
const { default: Provider, errors } = await from('oidc-provider/lib/index.js');
const jose = await from('jose/dist/webapi/index.js');

const claimsOf = (login) => ({
  email: `${login}@example.org`,
  email_verified: true,
  name: login,
  groups: [],
  ...JSON.parse(readFileSync(process.argv[2], 'utf8')).accounts[login],
});

const provider = new Provider(settings.issuer, {
  jwks: settings.jwks,
  clients: settings.clients,
  claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name'], groups: ['groups'] },
  scopes: ['openid', 'offline_access'],
  conformIdTokenClaims: false,
  findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id, ...claimsOf(id) }) }),
  cookies: { keys: ['of-a-test'] },
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true },
  },
  pkce: { required: (_, client) => client.clientSecret === undefined },
  issueRefreshToken: async (_, client, code) =>
    client.grantTypeAllowed('refresh_token') && code.scopes.has('offline_access'),
  rotateRefreshToken: true,
  ttl: { IdToken: settings.lifetime, AccessToken: settings.lifetime, RefreshToken: 3600, Session: 3600, Grant: 3600,
    Interaction: 600, DeviceCode: 600 },
  enabledJWA: { idTokenSigningAlgValues: ['RS256', 'PS256', 'ES256', 'EdDSA'] },
});

// RFC 8693: a workload shows the token of its own issuer, and is given an id token of ours.
provider.registerGrantType('urn:ietf:params:oauth:grant-type:token-exchange', async (ctx) => {
  const { params, client } = ctx.oidc;
  let workload;
  try {
    const keys = jose.createLocalJWKSet(settings.workloads);
    ({ payload: workload } = await jose.jwtVerify(params.subject_token, keys, { audience: settings.issuer }));
  } catch (error) {
    throw new errors.InvalidGrant(`subject_token: ${error.message}`);
  }
  const id = workload.sub;
  const account = { accountId: id, claims: async () => ({ sub: id, ...claimsOf(id) }) };
  const token = new provider.IdToken({ sub: id, ...claimsOf(id) }, { ctx, client });
  token.scope = 'openid email groups profile';
  token.mask = {};
  token.rejected = [];
  ctx.oidc.entity('Account', account);
  ctx.body = {
    access_token: await token.issue({ use: 'idtoken' }),
    issued_token_type: 'urn:ietf:params:oauth:token-type:id_token',
    token_type: 'N_A',
    expires_in: settings.lifetime,
  };
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'audience', 'scope', 'connector_id']);

provider.listen(settings.port, settings.host, () => console.log('ready'));
