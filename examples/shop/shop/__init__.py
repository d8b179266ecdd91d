"""A small shop: users order products, a worker confirms the orders, a scheduler reports sales."""
