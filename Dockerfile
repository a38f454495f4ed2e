# syntax=docker/dockerfile:1
# The relay's image: one binary and the certificates of the public authorities. No shell, no package manager, no root.
#
#   docker build -t tokenrelay .
#   docker run --rm tokenrelay --help

FROM rust:1.95-bookworm AS build
WORKDIR /build
# Named one by one: a change to anything else does not build again.
COPY Cargo.toml Cargo.lock ./
COPY src ./src
COPY deploy/config.toml ./deploy/config.toml
# OpenSSL is compiled in: the image below has none.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --features vendored-tls --bin tokenrelay \
    && cp target/dist/tokenrelay /tokenrelay

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /tokenrelay /usr/local/bin/tokenrelay
# Inside a container loopback reaches nobody.
ENV TOKENRELAY__ADMIN__LISTEN=0.0.0.0:9464
EXPOSE 9464
USER nonroot
# SIGTERM, Docker's default, drains. Give it more time than shutdown.drain.
ENTRYPOINT ["/usr/local/bin/tokenrelay"]
CMD ["run"]
