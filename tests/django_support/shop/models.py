from __future__ import annotations

from django.db import models

__all__ = ["Order", "Receipt"]


class Order(models.Model):
    number = models.IntegerField(unique=True)


class Receipt(models.Model):
    number = models.IntegerField()
