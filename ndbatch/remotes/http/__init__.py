"""The one HTTP layer of all services: connections kept open, time-outs, polite retries, errors in our words."""
