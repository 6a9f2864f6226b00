"""The Prefect server: how it is started, what it holds for our flows, and how a flow finds it."""
