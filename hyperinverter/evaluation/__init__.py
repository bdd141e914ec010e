"""Measuring methods on images: numbers, tables and contact sheets."""
