"""Running a plan: the inherited environment, the processes, when they are ready, their end."""
