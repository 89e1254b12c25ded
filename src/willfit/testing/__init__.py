"""For the tests of other projects: a pytest fixture that fails when memory grows."""
