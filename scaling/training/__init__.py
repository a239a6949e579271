"""Training: a plan in, a run record out; the only home of torch."""
