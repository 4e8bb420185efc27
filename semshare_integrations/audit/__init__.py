"""``semshare audit``: what SemShare would have saved on requests that were sent to another model or server."""
