# Passes of EM as R's packages make them, timed inside R. Rscript rivals.R FOLDER RIVAL N D K
# FOLDER holds arrays of doubles, rows first as numpy writes them. Then each line of standard input is a command:
#   time P   prints wall-clock and processor seconds of one of P passes
#   check    writes FOLDER/result: the log-likelihood, then the parameters, after the first pass
words <- commandArgs(trailingOnly = TRUE)
folder <- words[1]
n <- as.integer(words[3]); d <- as.integer(words[4]); k <- as.integer(words[5])

numbers <- function(name, columns = 1) {
  path <- file.path(folder, name)
  matrix(readBin(path, "double", file.size(path) / 8), ncol = columns, byrow = TRUE)
}
spent <- function(work) {
  gc(FALSE)
  used <- system.time(work(), gcFirst = FALSE)
  c(used[["elapsed"]], used[["user.self"]] + used[["sys.self"]])
}

# A rival answers two questions: seconds(P), of one of P passes, and result().

mclust <- function() {
  suppressMessages(library(mclust))
  y <- numbers("y", d)
  covariance <- array(t(numbers("covariances", d * d)), c(d, d, k))
  roots <- array(apply(covariance, 3, chol), c(d, d, k))
  given <- list(
    pro = c(numbers("weights")), mean = t(numbers("means", d)),
    variance = list(modelName = "VVV", d = d, G = k, sigma = covariance, cholsigma = roots)
  )
  e_step <- function() estep(data = y, modelName = "VVV", parameters = given)
  list(
    seconds = function(passes) {
      spent(function() for (i in seq_len(passes)) mstep(data = y, modelName = "VVV", z = e_step()$z)) / passes
    },
    result = function() {
      before <- e_step()
      after <- mstep(data = y, modelName = "VVV", z = before$z)$parameters
      c(before$loglik, after$pro, after$mean, after$variance$sigma) # component by component
    }
  )
}

# flexmix starts from responsibilities, with the M-step: the time of an iteration is the difference of two runs, and the
# first log-likelihood that it tells is that of the parameters after one M-step.
by_flexmix <- function(formula, data, model, parameters_of) {
  suppressMessages(library(flexmix))
  start <- numbers("responsibilities", k)
  iterate <- function(iterations) {
    control <- list(iter.max = iterations, minprior = 0, tolerance = 0, classify = "weighted")
    flexmix(formula, data = data, k = k, cluster = start, model = model(), control = control)
  }
  list(
    seconds = function(passes) {
      (spent(function() iterate(passes + 1)) - spent(function() iterate(1))) / passes
    },
    result = function() {
      fit <- iterate(1)
      c(fit@logLik, fit@prior, parameters_of(fit))
    }
  )
}

poisson <- function() {
  by_flexmix(y ~ 1, data.frame(y = numbers("y")[, 1]), function() FLXMCmvpois(), function(fit) parameters(fit))
}

regression <- function() {
  x <- numbers("x", d)
  colnames(x) <- paste0("x", seq_len(d))
  formula <- as.formula(paste("y ~", paste(colnames(x), collapse = " + ")))
  by_flexmix(formula, data.frame(y = numbers("y")[, 1], x), function() FLXMRglm(family = "gaussian"), parameters)
}

# Whole calls by a package's own defaults.
whole <- function(run, value) {
  last <- NULL
  list(
    seconds = function(passes) spent(function() for (i in seq_len(passes)) last <<- run()) / passes,
    result = function() {
      if (is.null(last)) last <<- run()
      value(last)
    }
  )
}
npreg <- function() {
  suppressMessages(library(flexmix))
  data <- data.frame(y = numbers("y")[, 1], x = numbers("x")[, 1])
  run <- function() initFlexmix(y ~ x + I(x^2), data = data, k = k, nrep = 10, verbose = FALSE)
  whole(run, function(fit) c(fit@logLik))
}
zero_inflated <- function() {
  suppressMessages(library(pscl))
  data <- data.frame(y = numbers("y")[, 1], numbers("x", d))
  whole(function() zeroinfl(y ~ . | 1, data = data), function(fit) c(logLik(fit)))
}

# label.switching: n units, d draws; arrays of draws lie draw by draw. Where the package is not installed, its files in
# the folder that LABEL_SWITCHING names.
relabelling <- function(run) {
  sources <- Sys.getenv("LABEL_SWITCHING")
  if (nzchar(sources)) {
    suppressMessages(library(lpSolve))
    for (path in list.files(sources, "[.]R$", full.names = TRUE)) source(path)
  } else {
    suppressMessages(library(label.switching))
  }
  last <- NULL
  list(
    seconds = function(passes) spent(function() for (i in seq_len(passes)) last <<- run()) / passes,
    result = function() {
      if (is.null(last)) last <<- run()
      t(last$permutations)
    }
  )
}
labels_ecr <- function() {
  z <- numbers("z", n)
  pivot <- c(numbers("pivot"))
  relabelling(function() ecr(zpivot = pivot, z = z, K = k))
}
labels_stephens <- function() {
  p <- aperm(array(t(numbers("p", k)), c(k, n, d)), c(3, 2, 1))
  relabelling(function() stephens(p))
}

rival <- get(words[2])()
input <- file("stdin", "r")
repeat {
  command <- strsplit(readLines(input, 1), " ")
  if (length(command) == 0) break
  command <- command[[1]]
  if (command[1] == "time") {
    cat(sprintf("%.9f", rival$seconds(as.integer(command[2]))), "\n")
  } else {
    writeBin(as.double(rival$result()), file.path(folder, "result"))
    cat("done\n")
  }
  flush(stdout())
}
