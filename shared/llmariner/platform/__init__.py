"""The ports, and the adapters behind them: the only rooms where a third party's SDK is imported."""
