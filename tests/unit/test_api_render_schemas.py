"""What the OpenAPI says of the forms of synchronous calls."""

from app.api.render_fields import Shape, fields_of
from app.api.schemas.renders import body_of
from app.infrastructure.drawing.fonts import FontAlphabet
from app.operations.registry import default_registry


def test_no_segment_is_required_by_its_number_as_any_may_be_the_first() -> None:
    operation = default_registry(FontAlphabet()).get("concatenate")
    content = body_of(fields_of(operation, Shape.FORM_SEGMENTS))["requestBody"]["content"]
    schema = content["multipart/form-data"]["schema"]
    assert "required" not in schema
    assert "segment_0" in schema["properties"]
