# syntax=docker/dockerfile:1
# Image of code location, runs, webserver and daemon. The build argument TORCH chooses PyTorch's build: cpu, or a CUDA
# version such as cu128 (https://download.pytorch.org/whl/). docs/engines_kubernetes.md
#
#   docker build --build-arg TORCH=cpu -t hoser-kd:0.1.0-cpu .
#   docker build --build-arg TORCH=cu128 -t hoser-kd:0.1.0-cu128 .
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md ./
COPY hoser_kd hoser_kd
COPY assets assets
COPY dagster_project dagster_project
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm AS environment
ARG TORCH=cpu
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv /opt/hoser-kd
ENV PATH=/opt/hoser-kd/bin:$PATH
# torch first and alone: the largest layer, which changes with its version only
RUN torch="$(grep '^torch==' constraints.txt)" \
    && pip install --no-cache-dir --index-url "https://download.pytorch.org/whl/${TORCH}" "${torch}"
COPY --from=wheel /wheels /wheels
RUN wheel="$(ls /wheels/*.whl)" \
    && pip install --no-cache-dir --no-compile -c constraints.txt "hoser-kd[s3,k8s,serve] @ file://${wheel}"

FROM python:${PYTHON}-slim-bookworm
# OpenMP of torch and KaHIP
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --home-dir /home/hoser --create-home hoser \
    && install -d -o hoser -g hoser /project/config /project/data /cache /opt/dagster/dagster_home
COPY --from=environment /opt/hoser-kd /opt/hoser-kd
COPY --chown=hoser:hoser config /project/config
ENV PATH=/opt/hoser-kd/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONWARNINGS=ignore \
    HOSER_KD_CONFIG=/project/config \
    XDG_CACHE_HOME=/cache \
    NUMBA_CACHE_DIR=/cache/numba \
    MPLCONFIGDIR=/cache/matplotlib \
    DAGSTER_HOME=/opt/dagster/dagster_home
WORKDIR /project
USER 10001:10001
EXPOSE 3030
# The code location. Runs and steps of Kubernetes replace this command, as does `docker run IMAGE hoser-kd ...`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["dagster", "api", "grpc-health-check", "--port", "3030"]
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "3030", "--module-name", "dagster_project.definitions"]
