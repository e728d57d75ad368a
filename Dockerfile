# syntax=docker/dockerfile:1
# One image: launcher, router and shard. The entry point is the launcher, with the defaults TGI's image has (port 80, /data).

FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# The environment first: it changes less often than the code.
COPY constraints.txt pyproject.toml Makefile README.md LICENSE rust-toolchain.toml Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY proto proto
COPY router router
COPY launcher launcher
COPY server server
COPY demo-model/weights demo-model/weights
RUN make wheel

FROM python:3.11-slim-bookworm
ENV HF_HOME=/data PORT=80 HF_HUB_ENABLE_HF_TRANSFER=1 PYTHONUNBUFFERED=1
COPY --from=build /src/constraints.txt /src/dist/*.whl /tmp/
# `-c`: the pinned versions, without the tools of development.
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/*.whl && rm /tmp/*.whl /tmp/constraints.txt && mkdir -p /data
EXPOSE 80
VOLUME /data
STOPSIGNAL SIGTERM
COPY deploy/healthcheck.py /usr/local/lib/ribbon-healthcheck.py
# It looks where the router listens: `--port` on the command line wins over PORT.
HEALTHCHECK --start-period=60m --interval=10s --timeout=8s CMD ["python", "-I", "/usr/local/lib/ribbon-healthcheck.py"]
ENTRYPOINT ["ribbon-launcher"]
CMD ["--json-output"]
