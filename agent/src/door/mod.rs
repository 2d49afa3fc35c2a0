//! The Unix socket through which local programs and the CLI reach the agent.
