"""Measures of generated images and videos, each with its protocol and its floors."""
