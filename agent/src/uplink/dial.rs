//! Makes connections: name look-up, TCP, TLS, with a deadline, counting every byte.
