"""Loading weights into an adapter, strictly and with a report, and converting checkpoints between key formats.

The way of a checkpoint is: a name (``source``), a local file or folder (``download``, ``hub``, ``folder``) and its
tensors (``file``, and ``torch_file`` with ``inert_pickle``), their names without prefixes and wrappers
(``key_prefixes``), the backbone among them (``find_backbone``) by the names that it may have (``known_names``,
``formats``, ``projects``), timm's own rewriting of old names (``interpret``, ``filtered``, ``timm_pretrained``), the
pairing with the adapter's tensors (``match``, ``leftovers``), and copying (``load``, ``report``).
``target`` says what an adapter has to offer for that, and ``convert`` needs no adapter at all.
"""
