"""Runs steps: plans in, outcomes out. Obeys the router's schedule and makes none; knows no gRPC and no text."""
