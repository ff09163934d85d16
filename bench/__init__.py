"""Measures Tailrace side by side with what the hardware gives; ``make bench``."""
