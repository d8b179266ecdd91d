# Copyright: Contributors to the ephemera.preview project
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What our action plugins share: settings out of the play's variables, commands on the host."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from contextlib import chdir, contextmanager
from typing import Any, Iterable, Iterator, Mapping, Sequence

from ansible import constants as C
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.executor.interpreter_discovery import discover_interpreter
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display
from ansible_collections.ephemera.preview.plugins.module_utils import (
    _docker,
    _identity,
    _lease,
    _program,
    _settings,
)
from ansible_collections.ephemera.preview.plugins.module_utils._docker import Ran
from ansible_collections.ephemera.preview.plugins.module_utils._redact import (
    in_every_form,
    redact,
)
from ansible_collections.ephemera.preview.plugins.module_utils._run import limited

DISCOVERED = "discovered_interpreter_python"
"""The fact that Ansible keeps of a host's interpreter."""

LOCAL = "ansible.builtin.local"
PASSWORD_SECONDS, PASSWORD_SIZE = 60, 16 << 10

# Ours, but made by the playbooks, not set by anybody.
NOT_SETTINGS = frozenset({"preview_apps", "preview_build"})


def show(lines: Iterable[str]) -> None:
    """Print what a person asked for as it is: a result would show it as escaped JSON."""
    for line in lines:
        Display().display(line)


class PreviewAction(ActionBase):
    """An action plugin of this collection. ``arguments`` names what its task may say."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = True
    arguments: dict[str, dict[str, Any]] = {}
    required_one_of: Sequence[Sequence[str]] = ()
    required_by: Mapping[str, Sequence[str]] = {}
    asks_cluster = False
    """Whether it always asks a cluster something, so that a stage's lease can go with that."""
    _hold: dict[str, Any] | None = None

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Any:
        result = super().run(tmp, task_vars)
        self.facts: dict[str, str] = {}
        self.passwords: list[str] = []
        self.vars = task_vars or {}
        # A path is the host's: what it stands for is found there.
        spec = {
            name: dict(option, type="str") if option["type"] == "path" else option
            for name, option in self.arguments.items()
        }
        dummy, arguments = self.validate_argument_spec(
            spec, required_one_of=self.required_one_of, required_by=self.required_by
        )
        try:
            self.prepare(arguments)
            outcome = self.act(arguments, task_vars or {})
        except AnsibleActionFail as failure:
            outcome = dict(failure.result, failed=True, changed=False, msg=str(failure))
        except _docker.EngineError as error:
            outcome = {"failed": True, "changed": False, "msg": str(error)}
        except AnsibleConnectionFailure as failure:
            if not self.is_elsewhere:
                raise
            # The run goes on, to say so where the app connects.
            outcome = {"failed": True, "changed": False, "msg": self._away(failure)}
        if outcome.get("failed"):
            # What failed may repeat what an app or a program has said.
            outcome = self._redacted(outcome, arguments, task_vars or {})
        result.update(outcome)
        if self.facts:
            result["ansible_facts"] = self.facts
        return result

    def _redacted(
        self, outcome: dict[str, Any], arguments: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        if "name" not in (arguments.get("preview") or {}):
            return outcome
        return dict(redact(outcome, self.secrets(arguments["preview"], task_vars)))

    def prepare(self, arguments: dict[str, Any]) -> None:
        """What comes before the work."""

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Do the work and return the task's result."""
        raise NotImplementedError

    @property
    def is_elsewhere(self) -> bool:
        """Whether the task's connection leads to another host than the app's, which builds."""
        return self._task.delegate_to not in (None, "", self.vars["inventory_hostname"])

    def _away(self, failure: AnsibleConnectionFailure) -> str:
        said = next(iter(str(failure).strip().splitlines()), "no answer")
        return (
            f"{self._task.delegate_to}, which preview_builder names, cannot be reached: "
            f"{said.rstrip('.')}. Make `ansible {self._task.delegate_to} -m ansible.builtin.raw -a "
            "id` work with the same inventory."
        )

    @property
    def check_mode(self) -> bool:
        """Whether nothing may be changed."""
        return bool(self._task.check_mode)

    def settings(self, task_vars: dict[str, Any], required: Iterable[str] = ()) -> dict[str, Any]:
        """Every ``preview_*`` variable of the play, checked and completed by the schema."""
        given = {
            name: self._templar.template(value)
            for name, value in task_vars.items()
            if name.startswith("preview_") and name not in NOT_SETTINGS
        }
        try:
            return dict(_settings.resolve(given, required))
        except _settings.SettingsRefused as refused:
            raise AnsibleActionFail(str(refused)) from None

    def secrets(self, preview: dict[str, Any], task_vars: dict[str, Any]) -> list[str]:
        """Every value that no output may hold."""
        return _identity.secret_values(preview, self.settings(task_vars), self.passwords)

    def logins(self, registries: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
        """``preview_registries`` as they are logged in to: a command is asked for its password now,
        as those are good for some hours only.

        :raises AnsibleActionFail: a command gives none.
        """
        found = [
            {
                "registry": each["registry"],
                "username": each["username"],
                "password": each.get("password") or _told_password(each),
            }
            for each in registries
        ]
        self.passwords += [each["password"] for each in found]
        return found

    def on_host(self, argv: Sequence[str], stdin: str | None = None) -> Ran:
        """Run an argument list where the task's connection leads, without a module's cost."""
        command = self._compute_environment_string() + " " + shlex.join(argv)
        if not stdin:
            # A command without data gets a terminal of ssh, which mixes errors into the output,
            # ends lines by CRLF, and keeps whoever reads from it waiting.
            command, stdin = command + " </dev/null", "\n"
        ran = self._low_level_execute_command(command, in_data=stdin.encode())
        return Ran(ran["rc"], ran["stdout"], ran["stderr"])

    def run_program(
        self,
        name: str,
        params: dict[str, Any],
        task_vars: dict[str, Any],
        paths: Sequence[str] = (),
        works_on: str = "",
        *,
        in_process: bool = False,
    ) -> dict[str, Any]:
        """Run one of our programs on the host, and return its result; see ``_program``.

        :param paths: which of ``params`` are paths as people write them, with ``~``.
        :param works_on: the preview's folder, where it would work against another run.
        :param in_process: whether it loads little, so that it is worth to start no other Python
            where that would be this one.
        """
        if in_process and self._is_this_process(task_vars):
            asked = json.loads(json.dumps(params, default=str))
            with chdir(self._loader.get_basedir()):  # as the connection has it
                return dict(_program.load(name).run(asked, self.check_mode))
        code = _program.code()
        folder = self.get_shell_option("remote_tmp", "~/.ansible/tmp") + "/" + code.name
        python = self._python(task_vars)
        start = [python, "-c", _program.START, folder, name, works_on]
        request = {"params": params, "paths": paths, "check": self.check_mode}
        asked = json.dumps(request, default=str)
        ran = self.on_host(start, stdin=asked)
        if ran.rc == _program.MISSING:
            install = [python, "-c", _program.INSTALL, folder]
            ran = self.on_host(install, stdin=json.dumps(code.files))
            if ran.rc != 0:
                raise AnsibleActionFail(
                    f"The code of this collection could not be written to {folder} "
                    f"({_last_line(ran)}). Check that there is space, and that ansible_remote_tmp "
                    "is a folder of this user's."
                )
            ran = self.on_host(start, stdin=asked)
        if ran.rc in (127, _program.TOO_OLD):
            why = "is older than 3.8" if ran.rc == _program.TOO_OLD else _last_line(ran)
            raise AnsibleActionFail(
                f"{python} cannot be used on the host ({why}). Install Python 3.8 or newer "
                "there, or let ansible_python_interpreter name the one to use."
            )
        try:
            result = dict(json.loads(_last_line(ran, err=False)))
        except ValueError:
            what = self._task.action.rpartition(".")[2]
            raise AnsibleActionFail(
                f"{what} ended with code {ran.rc} on the host ({_last_line(ran)}). This should "
                "not happen: please report it.",
                result={"module_stderr": ran.err},
            ) from None
        for sentence in result.pop("warnings", []):
            Display().warning(sentence)
        return result

    def _is_this_process(self, task_vars: dict[str, Any]) -> bool:
        """Whether the task's connection leads to this machine, user, environment and Python."""
        return (
            self._connection.transport == "local"
            and not self._connection.become
            and not self._compute_environment_string()
            and self._python(task_vars) == sys.executable
        )

    def _python(self, task_vars: dict[str, Any]) -> str:
        """The interpreter that a module would get."""
        delegate = self._task.delegate_to
        if delegate:
            task_vars = task_vars["ansible_delegated_vars"][delegate]
        given = C.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        given = str(self._templar.template(given) or "auto")
        if not given.startswith("auto"):
            return given
        known = task_vars.get("ansible_facts", {}).get(DISCOVERED)
        if known:
            return str(known)
        found = str(discover_interpreter(self, "python", given, task_vars))
        if not self.is_elsewhere:
            self.facts[DISCOVERED] = found
        return found

    def lease(
        self,
        action: str,
        preview: dict[str, Any],
        kind: str,
        seconds: int,
        *,
        stdin: str = "",
        dead: str = "",
    ) -> str:
        """Take or keep a preview's lease, and write its state under it where that is given.

        :returns: the owner of the lease that this one ended, or nothing.
        """
        if preview["target"] == "kubernetes":
            return self._lease_in_cluster(action, preview, kind, seconds, stdin, dead)
        ran = self.on_host(_lease.command(action, preview, kind, seconds, dead=dead), stdin=stdin)
        verdict, dummy, rest = ran.out.strip().partition(" ")
        if ran.rc != 0 or verdict not in ("ok", "held"):
            raise AnsibleActionFail(
                f"The lease of {preview['name']} could not be written under "
                f"{preview['state_dir']}: {(ran.err or ran.out).strip()} "
                "Check that the folder of preview_state_dir can be written there."
            )
        if verdict == "held":
            raise _held(preview, rest)
        return rest.removeprefix("over ").partition(" ")[0]

    def _lease_in_cluster(
        self, action: str, preview: dict[str, Any], kind: str, seconds: int, state: str, dead: str
    ) -> str:
        hold = _holding(preview, action, seconds, kind=kind, state=state, dead=dead)
        if self.asks_cluster and action == "keep":
            self._hold = hold  # with the next question, which this action will ask
            return ""
        return str(self.ask_cluster(preview, "hold", hold=hold)["over"])

    def close(self, preview: dict[str, Any], state: Mapping[str, Any] | None) -> None:
        """Write the last state of this run, if there is one, and let the lease go.

        :raises AnsibleActionFail: there is a state, and this run no longer holds the lease.
        """
        text = json.dumps(state, sort_keys=True) if state else ""
        if preview["target"] == "kubernetes":
            self.ask_cluster(preview, "drop", writer=_writer(preview, "up", ""), state=text)
            return
        try:
            if state:
                self.lease("keep", preview, "up", 60, stdin=text)
        finally:
            self.on_host(_lease.command("drop", preview, "up", 0))

    def forget(self, preview: dict[str, Any]) -> None:
        """Let the lease go, and what it had to make of a preview that does not exist. What was
        fetched for a cluster is gone already."""
        if preview["target"] == "kubernetes":
            try:
                self.ask_cluster_as_holder(preview, "teardown", owner=preview["owner"], seconds=30)
            except AnsibleActionFail as problem:
                # Why the run failed is to be told all the same.
                Display().warning(str(problem))
        else:
            self.on_host(_lease.command("forget", preview, "up", 0))

    @contextmanager
    def _where_the_app_connects(self) -> Iterator[None]:
        """A builder that is another host need not lead to the cluster: the controller does."""
        if not self.is_elsewhere:
            yield
            return
        builder, connection = self._task.delegate_to, self._connection
        self._connection = connection_loader.get(LOCAL, self._play_context, None)
        self._task.delegate_to = None
        try:
            yield
        finally:
            self._connection, self._task.delegate_to = connection, builder

    def ask_cluster(self, preview: Mapping[str, Any], ask: str, **params: Any) -> dict[str, Any]:
        """What the program ``_cluster`` answers about a preview where its app connects.

        :raises AnsibleActionFail: the cluster cannot be asked, or refuses, or another run has the
            preview.
        """
        settings = preview["settings"]
        params.update(
            ask=ask,
            name=preview["name"],
            kubeconfig=settings["preview_kubeconfig"],
            context=settings["preview_kube_context"],
            hold=params.get("hold") or self._hold,
            external=bool(settings["preview_external_secrets"]),
        )
        self._hold = None
        with self._where_the_app_connects():
            said = self.run_program("cluster", params, self.vars, in_process=ask == "observe")
        if "held" in said:
            raise _held(preview, said["held"])
        if said.get("failed") and "diagnosis" not in said:
            raise AnsibleActionFail(said["msg"], result=said)
        return said

    def ask_cluster_as_holder(
        self, preview: Mapping[str, Any], ask: str, **params: Any
    ) -> dict[str, Any]:
        """The same while this run still has the lease, which it then keeps for as long as a stage
        may take at least.

        :raises AnsibleActionFail: as :meth:`ask_cluster`.
        """
        seconds = preview["settings"]["preview_lease"]
        return self.ask_cluster(preview, ask, hold=_holding(preview, "keep", seconds), **params)


class ProgramAction(PreviewAction):
    """An action that only has its ``program`` run on the host.

    The option ``works_on`` is the preview's folder, where the program would work against another
    run of the same preview.
    """

    program = ""
    works_on = ""

    def act(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        paths = [name for name, option in self.arguments.items() if option["type"] == "path"]
        works_on = arguments[self.works_on] if self.works_on else ""
        params = {k: v for k, v in arguments.items() if k not in ("stage", "preview")}
        return self.run_program(self.program, params, task_vars, paths, works_on)


def _holding(
    preview: Mapping[str, Any],
    action: str,
    seconds: int,
    *,
    kind: str = "up",
    state: str = "",
    dead: str = "",
) -> dict[str, Any]:
    """What a question to a cluster brings along that takes or keeps the lease."""
    writer = _writer(preview, kind, dead)
    return {"writer": writer, "action": action, "seconds": seconds, "state": state}


def _writer(preview: Mapping[str, Any], kind: str, dead: str) -> dict[str, Any]:
    """This run, as ``_kubernetes_lease.Writer`` has it."""
    return {
        "name": preview["name"],
        "labels": preview["labels"],
        "run": preview["run"],
        "kind": kind,
        "holder": _lease.holder(),
        "dead": dead,
    }


def _told_password(registry: Mapping[str, Any]) -> str:
    """What the command of an entry of ``preview_registries`` prints."""
    argv = registry["password_command"]
    what = f"preview_registries: {argv[0]}, the password_command of {registry['registry']},"
    try:
        ended = limited(
            argv, env=dict(os.environ), cwd="/", seconds=PASSWORD_SECONDS, keep=PASSWORD_SIZE + 2
        )
    except OSError as error:
        raise AnsibleActionFail(
            f"{what} cannot be started on the controller: {error.strerror}."
        ) from None
    password = ended.out.decode("utf-8", "replace").rstrip("\r\n")
    if ended.timed_out:
        raise AnsibleActionFail(f"{what} did not end within {PASSWORD_SECONDS} s.")
    if ended.rc != 0:
        lines = redact(ended.err, in_every_form(password.split())).strip().splitlines()
        raise AnsibleActionFail(
            f"{what} ended with code {ended.rc}: {lines[-1] if lines else 'it said nothing.'} "
            "Run it on the controller, as the user of Ansible."
        )
    if not password or len(password) > PASSWORD_SIZE or not password.isprintable():
        raise AnsibleActionFail(
            f"{what} printed something else than a password, which is one line of at most "
            f"{PASSWORD_SIZE} characters."
        )
    return password


def _held(preview: Mapping[str, Any], line: str) -> AnsibleActionFail:
    """What a run is told that meets another one."""
    other = _lease.parse(line)
    if other is None:
        return AnsibleActionFail(
            f"{preview['name']} was taken down while this run was working on it."
        )
    return AnsibleActionFail(_lease.refusal(preview["name"], other, int(time.time())))


def _last_line(ran: Ran, err: bool = True) -> str:
    """The last that a command has said: of its errors, or of its output."""
    lines = ((ran.err if err else "") or ran.out).strip().splitlines()
    return lines[-1] if lines else "it said nothing."
