"""What the tests share: a house in one process, programs, raw clients, receivers, builders."""
