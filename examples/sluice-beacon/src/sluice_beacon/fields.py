"""Types of Beacon's fields."""

from datetime import datetime
from typing import Annotated

import msgspec

#: RFC 3339 with a zone, to the microsecond.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
