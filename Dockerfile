# One image for any service: docker run IMAGE run services.cth
# Configuration: mount a config.yml at /app/config.yml, or set MQASYNC_BROKER.

FROM python:3.11-slim AS build
WORKDIR /build
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY mqasync mqasync
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements.lock \
    && /venv/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --system --home-dir /app --create-home mqasync
COPY --from=build /venv /venv
WORKDIR /app
COPY config.yml ./
COPY services services
USER mqasync
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["mqasync"]
CMD ["run", "services.cth"]
