"""Engines: where one is installed, which version it is, and the installer of the CPU one."""
