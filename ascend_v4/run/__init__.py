"""Running a plan: the inherited environment, the process, and when it is ready."""
