"""SemShare inside agent frameworks: a subpackage per framework, importing it only when it is itself imported."""
