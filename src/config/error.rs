//! Settings that cannot be.

use std::net::SocketAddr;

/// Settings that do not go together, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Anybody who reaches the address could do anything.
    #[error(
        "LESSOR_LISTEN is {0}, which other machines can reach, and access is open, so anybody who reaches it could \
         create and end sessions. Set LESSOR_ADMIN_TOKEN to a long random word (`openssl rand -hex 32` makes one), or \
         LESSOR_ACCESS=tokens (`lessor token create` makes the first one), or listen on a loopback address such as \
         127.0.0.1:8080."
    )]
    OpenToTheNetwork(SocketAddr),
    /// A token that is not asked for protects nothing.
    #[error(
        "LESSOR_ACCESS is open, so LESSOR_ADMIN_TOKEN would never be asked for. Unset one of them."
    )]
    OpenWithToken,
    /// Nobody would sign in.
    #[error(
        "LESSOR_ACCESS is open, so nobody would be asked to sign in. Unset it, or LESSOR_OIDC_ISSUER."
    )]
    OpenWithSignIn,
    /// JWTs for anybody would do.
    #[error(
        "LESSOR_OIDC_ISSUER is set and LESSOR_OIDC_AUDIENCE is not. Say for whom JWTs must be."
    )]
    IssuerWithoutAudience,
    /// Nobody would issue them.
    #[error("LESSOR_OIDC_AUDIENCE is set without LESSOR_OIDC_ISSUER. Say where people sign in.")]
    AudienceWithoutIssuer,
    /// There is nowhere to do it.
    #[error(
        "LESSOR_OIDC_CONSOLE_CLIENT_ID is set without LESSOR_OIDC_ISSUER. Say where people sign in."
    )]
    ConsoleWithoutIssuer,
    /// There would be none to send.
    #[error(
        "LESSOR_OIDC_CONSOLE_TOKEN is id, and LESSOR_OIDC_CONSOLE_SCOPES lacks openid, without which no provider gives one."
    )]
    NoIdTokenAskedFor,
    /// It is there and says nothing, which may mean the wrong thing.
    #[error("{0} is set but empty. Give it a value, or unset it.")]
    Empty(&'static str),
    /// A client could not send it in a header.
    #[error(
        "LESSOR_ADMIN_TOKEN may only have visible ASCII characters and no spaces, since it is sent in a header."
    )]
    UnsendableToken,
    /// `DATABASE_URL` decides whether the database is private.
    #[error(
        "LESSOR_LISTEN_URL is for a DATABASE_URL that leads to a pooler; there is no DATABASE_URL. Set it too, or unset LESSOR_LISTEN_URL."
    )]
    ListenUrlAlone,
    /// The private one is reached without TLS.
    #[error(
        "LESSOR_DATABASE_CA is for a DATABASE_URL; there is none. Set it too, or unset LESSOR_DATABASE_CA."
    )]
    DatabaseCaAlone,
    /// Half of what TLS needs.
    #[error("{0} is set without {1}. Set both, or neither.")]
    TlsHalf(&'static str, &'static str),
    /// It has no default here.
    #[error(
        "There is no home folder to keep data in. Set LESSOR_DATA_DIR to a folder, or DATABASE_URL to a PostgreSQL."
    )]
    NoDataDir,
}
