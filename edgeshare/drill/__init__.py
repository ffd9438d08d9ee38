"""A rehearsal: a dummy lesson that all nodes fetch at one time, and a report; the morning, tried the evening before."""
