# syntax=docker/dockerfile:1

# Two images from one file:
#   docker build --target api    -t nowcast-api .       the HTTP service: no OpenCV, no PyTorch
#   docker build --target worker -t nowcast-worker .    ingest, infer, verify and the command line
# Inference with networks: --build-arg EXTRAS=worker,grib,geo,zarr,network, and for a GPU also
#   --build-arg EXTRA_INDEX_URL=https://download.pytorch.org/whl/cu130

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- what both are built in: a virtual environment that is copied whole, so that pip stays behind ----
FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/nowcast
ENV PATH=/opt/nowcast/bin:$PATH
WORKDIR /src
# Dependencies change seldom and code often: the first installation sees a project without code.
COPY pyproject.toml constraints.txt README.md ./

FROM build AS build-api
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[api]'
COPY nowcast nowcast
COPY api api
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --no-deps --force-reinstall . \
    && pip check \
    && pip uninstall --yes pip setuptools \
    && rm /opt/nowcast/bin/nowcast

FROM build AS build-worker
ARG EXTRAS=worker,grib,geo,zarr
ARG EXTRA_INDEX_URL=
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_EXTRA_INDEX_URL="${EXTRA_INDEX_URL}" pip install --constraint constraints.txt ".[${EXTRAS}]"
COPY nowcast nowcast
COPY models models
COPY worker worker
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --no-deps --force-reinstall . \
    && pip check \
    && pip uninstall --yes pip setuptools

# ---- what both run in: no compiler, no pip, an ordinary user, nothing written outside /data and /tmp ----
FROM ${PYTHON_IMAGE} AS runtime
LABEL org.opencontainers.image.title="nowcast" \
      org.opencontainers.image.description="Precipitation nowcasting from radar: frames in, verified forecasts out"
# A number as the user lets an orchestrator see that it is not root. A named volume takes over the owner of /data.
RUN groupadd --gid 10001 nowcast \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nowcast \
    && install --directory --owner=10001 --group=10001 /data
ENV PATH=/opt/nowcast/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NOWCAST_DATA_DIR=/data \
    NOWCAST_DOMAINS_FILE=/etc/nowcast/nowcast.toml
WORKDIR /data

FROM runtime AS worker
# The rasterio wheel expects libexpat of the system, which the slim image lacks.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-worker /opt/nowcast /opt/nowcast
ENV NOWCAST_METRICS_HOST=0.0.0.0 \
    NOWCAST_METRICS_PORT=9100
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"NOWCAST_METRICS_PORT\"]}/metrics', timeout=4)"]
ENTRYPOINT ["nowcast"]
CMD ["--help"]

FROM runtime AS api
COPY --from=build-api /opt/nowcast /opt/nowcast
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["uvicorn", "api.app:create_app", "--factory", "--host", "0.0.0.0", "--port", "8000", "--no-access-log", "--timeout-graceful-shutdown", "4"]
