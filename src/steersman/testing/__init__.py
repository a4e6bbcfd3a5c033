"""Public fakes, story drivers, samples and conformance suites: for our tests and for those of plugin authors."""
