"""scaling completion SHELL: a script that lets Tab complete verbs, sweeps, keys and values.

  scaling completion bash > ~/.scaling-completion.bash; echo 'source ~/.scaling-completion.bash' >> ~/.bashrc
  scaling completion zsh > ~/.scaling-completion.zsh; echo 'source ~/.scaling-completion.zsh' >> ~/.zshrc
  scaling completion fish > ~/.config/fish/completions/scaling.fish

Then open a new shell. Sweeps are those of ./sweeps and of the package; values are the choices of a key.
"""

from __future__ import annotations

from collections.abc import Sequence

from scaling.study.errors import ConfigError, did_you_mean

BASH = """\
# To install: scaling completion bash > ~/.scaling-completion.bash; echo 'source ~/.scaling-completion.bash' >> ~/.bashrc
_scaling_complete() {
    local IFS=$'\\n' line command="${COMP_WORDS[0]/#\\~/$HOME}"
    COMPREPLY=()
    # line by line: nothing in a name is expanded
    while read -r line; do COMPREPLY+=("$line"); done < <(
        "$command" complete bash "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null)
    # a key goes on with its value: no space behind it
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _scaling_complete scaling
"""

ZSH = """\
#compdef scaling
# To install: scaling completion zsh > ~/.scaling-completion.zsh; echo 'source ~/.scaling-completion.zsh' >> ~/.zshrc
# (behind the line with compinit, if there is one)
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
_scaling() {
    local -a found
    found=(${(f)"$(${~words[1]} complete zsh "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)"})
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    # a key goes on with its value: no space behind it
    compadd -S '' -- ${(M)found:#*[=./]}
    compadd -- ${found:#*[=./]}
}
compdef _scaling scaling
"""

FISH = """\
# To install: scaling completion fish > ~/.config/fish/completions/scaling.fish
function __scaling_complete
    set -l words (commandline -opc)
    set -l token (commandline -ct)
    set -l found ($words[1] complete fish $words[2..-1] "$token" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else if string match -q '*=*' -- $token
        set -l key (string replace -r '=.*' '' -- $token)
        for path in (__fish_complete_path (string replace -r '^[^=]*=' '' -- $token))
            echo $key=$path
        end
    else
        __fish_complete_path $token
    end
end
complete -c scaling -f -a '(__scaling_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def run_completion(arguments: Sequence[str]) -> int:
    """Print the script of a shell."""
    if len(arguments) != 1 or arguments[0] not in SCRIPTS:
        given = " ".join(arguments) or "nothing"
        raise ConfigError(
            f"completion: expected one shell of {', '.join(SCRIPTS)}; got {given}.{did_you_mean(given, SCRIPTS)} "
            "Write scaling completion bash; scaling completion --help says where to put it."
        )
    print(SCRIPTS[arguments[0]], end="")
    return 0
