"""Designs judged before they are trained: what they can tell, and what they cannot."""
