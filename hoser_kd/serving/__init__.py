"""The server over a trained student: requests, limits, batches and the HTTP application. Needs the extra `serve`."""
