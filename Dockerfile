# Two stages: what builds stays behind; the image has Python, the locked dependencies and the command.
FROM python:3.13-slim AS build
WORKDIR /build
RUN python -m venv /opt/wallet-gql
COPY requirements-server.lock .
RUN /opt/wallet-gql/bin/pip install --no-cache-dir --require-hashes --requirement requirements-server.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE schema.graphql ./
COPY alembic alembic
COPY wallet_gql wallet_gql
RUN /opt/wallet-gql/bin/pip install --no-cache-dir --no-deps .

FROM python:3.13-slim
RUN useradd --system --no-create-home --uid 10001 wallet
COPY --from=build /opt/wallet-gql /opt/wallet-gql
ENV PATH=/opt/wallet-gql/bin:$PATH PYTHONUNBUFFERED=1 WALLET_HOST=0.0.0.0 WALLET_LOG_FORMAT=json
USER wallet
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=4s --start-period=10s --retries=5 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
CMD ["wallet-gql", "serve"]
