"""The processes of the service: ingest, infer, verify, and the command line that starts them."""
