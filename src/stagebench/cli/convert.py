"""`stagebench convert`: a recording in any format to the fast layout. Importable without torch."""

from pathlib import Path

import click

from stagebench.cli.commands import PATH
from stagebench.core.settings import LoadSettings
from stagebench.media.events.npy import require_free, write_folder
from stagebench.media.events.recordings import load_event_arrays, size_of_recording
from stagebench.suite.options import TIME_UNIT


@click.command(name="convert", params=[TIME_UNIT])
@click.argument("source", metavar="IN", type=PATH)
@click.argument("target", metavar="OUT", type=PATH)
def command(source: Path, target: Path, time_unit: str | None) -> None:
    """Write the recording IN as the folder OUT, named NAME.events: each column a file, which loads fastest.

    IN is .npy, .npz, .h5 or .hdf5 of DSEC, .raw (EVT2, EVT3), .aedat4, or another .events folder.
    """
    require_free(target)
    events = load_event_arrays(source, LoadSettings(time_unit=time_unit))
    write_folder(target, events)
    click.echo(f"{target}: {len(events.t)} events, {size_of_recording(target)} bytes")
