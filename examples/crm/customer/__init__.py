"""The context ``customer`` turns people who register into customers, and customers into deals."""

from crm.customer.customers import Customers, visible_name
from crm.customer.pipeline import DealPipeline
from crm.customer.reference import ReferenceData
from crm.customer.sales import Sales

__all__ = ["Customers", "DealPipeline", "ReferenceData", "Sales", "visible_name"]
