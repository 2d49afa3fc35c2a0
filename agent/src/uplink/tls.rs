//! What TLS trusts and shows, as a rustls client configuration.
