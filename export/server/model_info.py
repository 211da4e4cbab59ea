"""GetModelStatus and GetModelMetadata, for gRPC, and as the JSON that REST answers with."""

from google.protobuf import json_format

from export import protocol
from export.server import errors
from export.server.manager import ModelManager

SIGNATURE_DEF = "signature_def"


def get_model_status(
    manager: ModelManager, request: protocol.GetModelStatusRequest, deadline: float | None = None
) -> protocol.GetModelStatusResponse:
    """The states of all versions a model has or had, newest first; or of one. Labels are ignored.

    Raises:
      ServingError: NOT_FOUND, there is no such model or version.
    """
    if not request.HasField("model_spec"):
        raise errors.invalid_argument("Missing ModelSpec")
    name, versions = request.model_spec.name, manager.states(request.model_spec.name)
    if request.model_spec.HasField("version"):
        number = request.model_spec.version.value
        versions = [version for version in versions if version.number == number]
        if not versions:
            raise errors.not_found(f"Could not find version {number} of model {name}")
    if not versions:
        raise errors.not_found(f"Could not find any versions of model {name}")
    response = protocol.GetModelStatusResponse()
    for version in versions:
        entry = response.model_version_status.add(version=version.number, state=version.state)
        entry.status.error_code = 0
        if version.error is not None:
            entry.status.error_code = version.error.code.value[0]
            entry.status.error_message = version.error.message
    return response


def get_model_metadata(
    manager: ModelManager, request: protocol.GetModelMetadataRequest, deadline: float | None = None
) -> protocol.GetModelMetadataResponse:
    """The signatures of a version.

    Raises:
      ServingError: no such model, or a field of metadata other than `signature_def`.
    """
    if not request.HasField("model_spec"):
        raise errors.invalid_argument("Missing ModelSpec")
    if not request.metadata_field:
        raise errors.invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise errors.invalid_argument(f"Metadata field {field} is not supported")
    response, found = protocol.GetModelMetadataResponse(), protocol.SignatureDefMap()
    with manager.use(request.model_spec) as servable:
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        for name, signature in servable.signatures.items():
            found.signature_def[name].MergeFromString(signature.serialized)
    response.metadata[SIGNATURE_DEF].Pack(found)
    return response


def status_json(response: protocol.GetModelStatusResponse) -> str:
    return _json(response)


def metadata_json(response: protocol.GetModelMetadataResponse) -> str:
    found = protocol.SignatureDefMap()
    response.metadata[SIGNATURE_DEF].Unpack(found)
    names = {"preserving_proto_field_name": True}
    # Written in pieces, as the stock server does: printed whole, the map would be an `Any`.
    return (
        f'{{\n"model_spec":{_json(response.model_spec, **names)},\n'
        f'"metadata": {{"signature_def": {_json(found, **names)}}}\n}}\n'
    )


def _json(message, **options) -> str:
    return json_format.MessageToJson(
        message,
        always_print_fields_with_no_presence=True,
        indent=1,
        ensure_ascii=False,
        **options,
    )
