# syntax=docker/dockerfile:1

# The service and the process agent. This file was written without a container engine at hand and has
# not been built yet.
#
# The image has no PostgreSQL, so DATABASE_URL is needed. It listens on every address of the
# container, so LESSOR_ADMIN_TOKEN is needed too; without it the service refuses to start:
#
#   docker build -t lessor .
#   docker run -p 8080:8080 -e DATABASE_URL -e LESSOR_ADMIN_TOKEN lessor

FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --locked --release -p lessor -p lessor-agent

FROM debian:bookworm-slim
# The system's certificates: TLS to PostgreSQL trusts these.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin lessor
COPY --from=build /build/target/release/lessor /build/target/release/lessor-agent /usr/local/bin/
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
ENV LESSOR_LISTEN=0.0.0.0:8080
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["lessor"]
CMD ["serve"]
