"""What stands in the path of a request: router, workers, capture and committer.

These processes outlive the control server: they start from files they persisted themselves and never import the layers
above. The control server reaches them through two unix sockets and one file of configuration, nothing else.
"""
