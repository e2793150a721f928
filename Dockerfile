# One image for any service: docker run IMAGE run services.cth
# Your own services: mount them at /app/services, or FROM this image and COPY them there.
# Configuration: mount /app/config.yml, or set MQASYNC_BROKER. Only /data and /tmp are written to.

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY mqasync mqasync
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes --requirement requirements.lock \
    && /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="mqasync" \
      org.opencontainers.image.description="asyncio microservices on existing message brokers" \
      org.opencontainers.image.licenses="MIT"
# The live page's picture is Graphviz's
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends graphviz && rm -rf /var/lib/apt/lists/*
# Nothing in /app is the user's own, so that no service can change a program
RUN useradd --uid 10001 --no-log-init --home-dir /app --no-create-home --shell /usr/sbin/nologin mqasync \
    && install --directory --owner=10001 /data
COPY --from=build /venv /venv
WORKDIR /app
COPY config.yml ./
COPY services services
# A number: Kubernetes' runAsNonRoot cannot know who a name is
USER 10001
VOLUME /data
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MQASYNC_BROKER=sqlite:/data/mqasync.db \
    CTH_OUTPUT=/data \
    MQASYNC_HTTP=:8080
EXPOSE 8080
# Healthy is also a command that serves nothing, such as `produce`, or a `run` with an empty MQASYNC_HTTP
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-m", "mqasync.web.probe"]
ENTRYPOINT ["mqasync"]
CMD ["run", "services.cth"]
