"""Many sources on several processes or machines: lists of jobs, their tasks."""
