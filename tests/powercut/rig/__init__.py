"""What the power-cut tests are made of: disk, machine, broker, ledger."""
