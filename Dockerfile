# Tidemill in a container; docker-compose.yml starts it, docs/running.md says how to run it.
#
# Nothing is written outside of /data: the root may be (and in docker-compose.yml is) read-only, without any tmpfs.

# The same image for building and running, so that the packages fit the interpreter. To pin it for good:
#   docker build --build-arg PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:... .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- build: the environment in /opt/tidemill, every package by version and hash -----------------------------------------
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_INPUT=1
WORKDIR /src
RUN python -m venv /opt/tidemill
COPY requirements/run.txt requirements/
RUN /opt/tidemill/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements/run.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
RUN /opt/tidemill/bin/python -m pip install --no-deps --no-build-isolation . \
 && /opt/tidemill/bin/python -m pip uninstall --yes hatchling editables setuptools pip

# --- run: that environment, and three packages of the system ------------------------------------------------------------
FROM ${PYTHON_IMAGE} AS run

# bubblewrap: the strongest sandbox of FFmpeg, where the engine lets it (docs/running.md).
# libfribidi0 and the fonts: text in scripts that run from right to left.
# FFmpeg is the one that came with the packages, pinned by its hash: the one the tests ran with.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends bubblewrap libfribidi0 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log

# Fixed numbers, so that folders and keys of the host can be handed over by chown.
RUN groupadd --gid 10001 tidemill \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tidemill \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data

COPY --from=build /opt/tidemill /opt/tidemill

# TMPDIR points nowhere on purpose: whatever would spool there fails loudly instead of filling a layer.
ENV PATH=/opt/tidemill/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/nonexistent \
    TMPDIR=/nonexistent \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TIDEMILL_DATA_DIR=/data \
    TIDEMILL_HOST=0.0.0.0 \
    TIDEMILL_PORT=8000 \
    TIDEMILL_LOG_FORMAT=json

LABEL org.opencontainers.image.title="Tidemill" \
      org.opencontainers.image.description="Resumable uploads of large videos in, finished files out, nothing left behind." \
      org.opencontainers.image.licenses="MIT AND GPL-3.0-or-later"

USER 10001:10001
WORKDIR /
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

# Alive, not ready: whatever restarts unhealthy containers would cut uploads off for a full disk, and cure nothing.
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
  CMD ["/opt/tidemill/bin/python", "-I", "-S", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["tidemill"]
CMD ["serve"]
