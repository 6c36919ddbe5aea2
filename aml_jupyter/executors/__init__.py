"""Where jobs run: one module for each kind of target."""
