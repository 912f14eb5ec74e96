"""The context ``identity`` knows who may sign in, and how people are reached."""

from crm.identity.population import Person, Population
from crm.identity.registration import Registration
from crm.identity.welcome import MailGateway, WelcomeMail

__all__ = ["MailGateway", "Person", "Population", "Registration", "WelcomeMail"]
