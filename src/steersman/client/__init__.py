"""What people and programs use to talk to Steersman: documents, decisions, predictions and labels.

It needs msgspec, PyYAML and the standard library, nothing of the server.
"""
