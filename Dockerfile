# The image of a function or an event consumer: docker build --build-arg FUNCTION=functions/chat_completions .
#
# It holds the packages of the function's extras (its func.yaml or trigger.yaml names them) and every function with the
# same extras, since the manifests run one image per set of extras. `make images` builds all of them.
#
# BASE: any image with Python 3.11 to 3.13 as `python`, and with libstdc++. BUILDER: the same Python in the same place, with
# pip, and with gcc to compile the token path.
ARG BASE=python:3.11-slim-bookworm
ARG BUILDER=python:3.11-bookworm

FROM ${BUILDER} AS tools
# A package mirror; by default, the index that pip and uv use.
ARG INDEX=""
WORKDIR /build
COPY locks/platform.lock locks/platform.lock
COPY images/install.py images/install.py
RUN ["python3", "images/install.py", "tools"]

FROM tools AS declared
ARG INDEX=""
ARG FUNCTION=""
# Instead of FUNCTION: an image of the package alone, with these extras and the `llma` command.
ARG EXTRAS=""
COPY pyproject.toml pyproject.toml
COPY functions functions
COPY eventing eventing
COPY shared/llmariner/__init__.py shared/llmariner/__init__.py
COPY shared/llmariner/manifests shared/llmariner/manifests
RUN ["python3", "images/install.py", "declare"]

# One step per group of packages, so that images share identical layers.
FROM tools AS packages
ARG INDEX=""
COPY --from=declared /declared/core.txt /declared/core.txt
RUN ["python3", "images/install.py", "packages", "core"]
COPY --from=declared /declared/database.txt /declared/database.txt
RUN ["python3", "images/install.py", "packages", "database"]
COPY --from=declared /declared/cluster.txt /declared/cluster.txt
RUN ["python3", "images/install.py", "packages", "cluster"]
COPY --from=declared /declared/api.txt /declared/api.txt
RUN ["python3", "images/install.py", "packages", "api"]
COPY --from=declared /declared/others.txt /declared/others.txt
RUN ["python3", "images/install.py", "packages", "others"]

FROM tools AS code
ARG INDEX=""
COPY pyproject.toml pyproject.toml
COPY shared shared
RUN ["python3", "images/install.py", "code"]
COPY --from=declared /declared/folders.json /declared/folders.json
COPY functions functions
COPY eventing eventing
RUN ["python3", "images/install.py", "functions"]

FROM ${BASE}
# A public base includes an installer, which the image does not need.
RUN ["python3", "-c", "import shutil, importlib.util as u, pathlib as p; \
[shutil.rmtree(s.submodule_search_locations[0]) for n in ('pip', 'setuptools', 'wheel', 'ensurepip') if (s := u.find_spec(n))]; \
[f.unlink() for f in p.Path('/usr/local/bin').glob('pip*')]"]
COPY --from=packages /layers/core/ /
COPY --from=packages /layers/database/ /
COPY --from=packages /layers/cluster/ /
COPY --from=packages /layers/api/ /
COPY --from=packages /layers/others/ /
COPY --from=code /layers/code/ /
COPY --from=code /layers/functions/ /
# All code is compiled, and the root may be read-only: functions write only below /tmp.
ENV PYTHONPATH=/app/packages PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp PORT=8080
WORKDIR /app
USER 65532:65532
EXPOSE 8080
CMD ["python", "-m", "llmariner.boot", "function"]
