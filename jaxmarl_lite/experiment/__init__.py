"""Training runs: the plan, the compiled programs, the host loop, stored rows and the result."""
