"""Other libraries' signatures in front of bigspec's functions, for code that changes an import."""
